-- :checkhealth critic
local M = {}

function M.check()
  local health = require('health')
  local config = require('critic').config
  health.report_start('critic')
  if vim.fn.has('nvim-0.7') == 1 then
    health.report_ok('Neovim is recent enough')
  else
    health.report_error('Neovim 0.7 or later is needed')
  end
  local program = config.cmd[1]
  if vim.fn.executable(program) ~= 1 then
    health.report_error(program .. ' is not installed', {
      'cargo install --path cli',
      "or set its place: require('critic').setup({ cmd = { '/path/to/critic', 'lsp' } })",
    })
    return
  end
  health.report_ok(program .. ': ' .. vim.fn.trim(vim.fn.system({ program, '--version' })))
  local words = { program, 'info' }
  -- A model that the server is told about on its command line, or by a setting.
  for index, word in ipairs(config.cmd) do
    if word == '--model' or word == '-m' then
      words[#words + 1] = config.cmd[index + 1]
    end
  end
  if config.settings.model and #words == 2 then
    words[#words + 1] = config.settings.model
  end
  local said = vim.fn.system(words)
  if vim.v.shell_error == 0 then
    health.report_ok('the model opens')
  else
    health.report_error(vim.fn.trim(said), { program .. ' pull smollm2-135m' })
  end
end

return M
