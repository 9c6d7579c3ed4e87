"""Give a chat model a new identity with DPO, and prove that nothing else changed."""
