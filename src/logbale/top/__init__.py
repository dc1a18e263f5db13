"""`logbale top`: a receiver's numbers in a terminal."""
