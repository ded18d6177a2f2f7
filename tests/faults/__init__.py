"""Faults that anyone can bring about: kills, full disks, damaged files, hostile input; counted, and survived."""
