"""Lip-sync for film: `musetalk dub film.mp4 --audio fr.wav`."""

__version__ = "0.1.0"
