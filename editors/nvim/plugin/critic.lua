-- Commands of critic. Nothing starts before require('critic').setup() or the first command.
if vim.g.loaded_critic then
  return
end
vim.g.loaded_critic = 1

local function command(name, method, options)
  vim.api.nvim_create_user_command(name, function(opts)
    require('critic')[method](opts)
  end, options)
end

command('Critique', 'critique', { range = true, bang = true, desc = 'Critique the selection, function or (!) document' })
command('CriticRefine', 'refine', { range = true, bang = true, desc = 'Refine the selection, function or (!) document' })
command('CriticFixAll', 'fix_all', { desc = 'Apply all replacements that do not overlap' })
command('CriticApply', 'apply', { desc = 'Take the refinement that is shown' })
command('CriticDiscard', 'discard', { desc = 'Leave the refinement that is shown' })
command('CriticCancel', 'cancel', { desc = 'Cancel what runs' })
command('CriticClear', 'clear', { desc = 'Forget all findings in this buffer' })
