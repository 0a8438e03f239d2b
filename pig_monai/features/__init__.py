"""What slices and masks are described by when generated ones are compared with real ones: feature spaces."""
