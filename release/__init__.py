"""What is made of the sources for those who install them: man pages, completion, the
Debian package. Not part of the distribution."""
