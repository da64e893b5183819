"""peft over our quantized layers; importing this teaches peft about them."""
