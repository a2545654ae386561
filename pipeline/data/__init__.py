"""Every benchmark as documents and examples."""
