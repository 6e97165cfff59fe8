"""Long work in processes of their own: progress, cancel, crash, restart. Owns $TOPWORK_HOME/jobs."""
