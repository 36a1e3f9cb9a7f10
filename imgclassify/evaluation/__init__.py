"""How good a classifier is: the truth of labelled images, and figures with their 95 % intervals."""
