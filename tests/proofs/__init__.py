"""`make prove`: whether synthetic images help, on a world that is known exactly and on two that no one here made."""
