"""Put artifacts on a hub, with a card written from what was measured."""
