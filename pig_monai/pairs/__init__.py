"""What comes out: candidates drawn with Algorithm 2, judged, and written as a dataset folder."""
