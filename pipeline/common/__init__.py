"""What several rooms read: tables on disk, text matching, files, devices."""
