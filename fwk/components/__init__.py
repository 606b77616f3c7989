"""What components exist and where they come from: registry, indexes, plugins, user directories."""
