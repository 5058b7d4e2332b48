"""What lies in the folder of a run, and where and how it runs."""
