"""Photos and their cameras: layouts of folders, images, splits, rays. The only code that opens images."""
