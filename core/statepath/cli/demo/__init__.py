"""`statepath demo`: a server is killed in mid-write, again and again, and nothing that it was promised is lost."""
