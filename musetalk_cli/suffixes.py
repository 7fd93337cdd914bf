"""By which names films and voices are found in a folder. A file that is named goes by its content, whatever its suffix."""

FILMS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mxf"})
SOUNDS = frozenset({".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac"})
