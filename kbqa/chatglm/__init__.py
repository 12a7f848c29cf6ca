"""The ChatGLM family in plain torch: from the published folders, without their code."""
