"""The service over Varlink: a front end beside the bus, for where there is none yet or none is wanted."""
