"""What goes wrong outside: disks that fail or fill up, processes that are killed, settings that cannot work."""
