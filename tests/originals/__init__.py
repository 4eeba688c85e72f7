"""Every command line of the originals, literally, and what running it here needs: bash, and models of their names."""
