"""The command `bootcd-health`: whether this boot is good, and the way back if it is not."""
