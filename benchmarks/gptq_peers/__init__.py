"""Our GPTQ beside gptqmodel's: what each costs in quality and takes in time, from the same windows."""
