"""The paper's comparison as one command: every method on equal terms, and a report (workflows/study.smk)."""
