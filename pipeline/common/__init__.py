"""Several rooms read this one: tables on disk, text matching, files, devices."""
