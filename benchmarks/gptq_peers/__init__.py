"""Our GPTQ beside gptqmodel's: what each costs in quality and in time, with the same windows."""
