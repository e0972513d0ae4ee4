"""Study files: a question in TOML, parsed once into frozen records."""
