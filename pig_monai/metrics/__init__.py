"""What is measured, and how far it may be trusted.

Of segmentations: overlap and surface distance of a slice, lesions that were found. Of generated slices against
real ones: Fréchet and kernel distance, neighbourhoods, memorisation, tests of two samples; and the projection that
makes features comparable. Of any figure: intervals over patients, and its spread over folds.
"""
