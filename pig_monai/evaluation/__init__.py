"""The mass segmenter on slices that it never saw: figures, tables and pictures."""
