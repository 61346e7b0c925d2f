"""What people look at of a run: the samples on its disk, and the report that is made of them."""
