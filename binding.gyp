{
  # node-gyp rebuild and prebuildify run the one native build, which is CMake's.
  "targets": [
    {
      "target_name": "millrace",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": [],
          # Never made, so that the action always runs: CMake knows better what is out of date.
          "outputs": ["<(PRODUCT_DIR)/always"],
          "action": ["node", "scripts/build-native.mjs"]
        }
      ]
    }
  ]
}
