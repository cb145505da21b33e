"""What a field looks like: images, scores, reports, pages, films."""
