"""How good a segmentation is: by slice, by lesion, and with what certainty."""
