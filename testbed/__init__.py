"""The test bed: containers that look like bare VPSes, and the real services that the worker needs.

`python -m testbed` is its command; the demo, the integration tests and Molecule use it.
"""
