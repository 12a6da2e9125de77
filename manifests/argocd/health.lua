-- Health of gpujob.dev resources for Argo CD, which takes every custom resource that it does not know for healthy.
-- Goes into argocd-cm as resource.customizations.health.gpujob.dev_GpuJob, and as ..._GpuPool.
local health = { status = "Progressing", message = "waiting for the operator" }
if obj.status == nil or obj.status.conditions == nil then
  return health
end
local ready = nil
for _, condition in ipairs(obj.status.conditions) do
  local current = condition.observedGeneration == nil or condition.observedGeneration == obj.metadata.generation
  if condition.type == "Stalled" and condition.status == "True" then
    return { status = "Degraded", message = condition.message }
  elseif condition.type == "Suspended" and condition.status == "True" then
    return { status = "Suspended", message = condition.message }
  elseif (condition.type == "Succeeded" or condition.type == "Ready") and current then
    ready = condition
  end
end
if ready ~= nil then
  health.message = ready.message
  if ready.status == "True" then
    health.status = "Healthy"
  elseif ready.status == "False" and ready.type == "Succeeded" then
    health.status = "Degraded"
  end
end
return health
