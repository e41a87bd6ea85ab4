"""libostree through GObject introspection; GI objects never leave this package."""
