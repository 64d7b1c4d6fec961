"""What `midm-gateway check` looks at, one thing a module. Nothing that is looked at is changed."""
