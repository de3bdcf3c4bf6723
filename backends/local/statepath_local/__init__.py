"""The local backend of statepath: a store in a folder."""
