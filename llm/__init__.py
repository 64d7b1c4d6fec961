"""The model server: who speaks its wire, what is sent to it, and who may call it when."""
