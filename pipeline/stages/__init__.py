"""One module per DVC stage: settings -> read -> call core -> write -> one-line summary."""
