"""The method itself: values in, values out. No paths, no settings object, no printing."""
