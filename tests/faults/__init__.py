"""Faults on purpose: dubs that are killed, starved and lied to, and what must hold all the same. `python -m tests.faults --help`.

cases.py ---- which fault, where, by a seed --.
shim.c, shim.py -- system calls that fail ----|
deeds.py ---- networks that fail -------------|-- nursery.py: one run of the command -- checks.py: what it left -- tally.py: the table
ffmpeg.sh --- a child that dies --------------'                      twice a case
"""
