"""The user study (paper, section 4.2): people rate clips of several methods without knowing which is which.

    folders of results --build--> page for the raters --their browsers--> result files --tally--> Table 2
                           '----> key.json, which stays with us ----------------------------'

Three questions a clip, five-point scales: visual quality (VQ), identity consistency (IC), lip-sync quality (LSQ).
"""

QUESTIONS = ("VQ", "IC", "LSQ")
FORMAT = 1  # of key.json and of the raters' files; raised when a field changes its meaning
