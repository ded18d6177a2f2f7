"""What any program needs: errors, files, processes, progress, the machine, talking to a hub."""
