"""What every room uses: validation, files, the environment."""
