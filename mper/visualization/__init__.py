"""Pictures of scans and masks for people: figures with contours and thumbnails of cases.

They are drawn from volumes and segmentations and written as PNG.
Imports: the root, `utils`, `datasets`, pillow.
"""
