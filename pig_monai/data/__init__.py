"""Data preparation: DICOM volumes and image files become a dataset folder of slices with masks."""
