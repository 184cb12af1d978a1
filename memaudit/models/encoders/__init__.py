"""Networks that describe images by vectors, built from published weights without running a file."""
