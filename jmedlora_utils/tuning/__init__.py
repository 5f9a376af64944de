"""LoRA, QLoRA and full tuning on the response only. May import core, data and models."""
