"""Configuration: YAML files, flags and overrides become one typed, validated `RunConfig`."""
