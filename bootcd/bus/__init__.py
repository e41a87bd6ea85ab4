"""The D-Bus front end; the only package that knows dbus_fast."""
