"""How far an answer can be trusted: calibration, roll-up, prediction sets and unfamiliarity, in numpy.

All are functions of (logits, features, labels, truth). Nothing here knows images, files of results or the network.
"""
