-- What is shown: a floating window that text streams into, and the difference of a refinement.
local M = {}

local window, buffer, phase = nil, nil, nil
local diff_tab = nil

local function valid()
  return window and vim.api.nvim_win_is_valid(window)
end

--- Opens the floating window at the lower right; the cursor stays where it is.
function M.open(title)
  M.close()
  buffer = vim.api.nvim_create_buf(false, true)
  vim.bo[buffer].bufhidden = 'wipe'
  local width = math.min(64, math.max(20, vim.o.columns - 8))
  local height = math.min(12, math.max(3, vim.o.lines - 8))
  window = vim.api.nvim_open_win(buffer, false, {
    relative = 'editor',
    anchor = 'SE',
    row = vim.o.lines - 2,
    col = vim.o.columns - 1,
    width = width,
    height = height,
    style = 'minimal',
    border = 'rounded',
    focusable = false,
  })
  vim.wo[window].wrap = true
  vim.wo[window].linebreak = true
  vim.api.nvim_buf_set_lines(buffer, 0, -1, false, { title .. ' …', '' })
  phase = nil
end

--- Appends text. A new phase begins a new paragraph.
function M.stream(now, text)
  if not valid() then
    return
  end
  local lines = vim.api.nvim_buf_get_lines(buffer, 0, -1, false)
  if phase ~= nil and phase ~= now then
    vim.list_extend(lines, { '', '── ' .. now, '' })
  end
  phase = now
  local fresh = vim.split(text, '\n', { plain = true })
  lines[#lines] = lines[#lines] .. fresh[1]
  for index = 2, #fresh do
    lines[#lines + 1] = fresh[index]
  end
  vim.api.nvim_buf_set_lines(buffer, 0, -1, false, lines)
  vim.api.nvim_win_set_cursor(window, { #lines, 0 })
end

--- Closes the floating window.
function M.close()
  if valid() then
    vim.api.nvim_win_close(window, true)
  end
  window, buffer = nil, nil
end

--- Shows the text as it is beside the text as it would be, in a tab of its own.
function M.diff(source, result, encoding)
  M.close_diff()
  local lines = vim.api.nvim_buf_get_lines(source, 0, -1, false)
  local proposed = vim.api.nvim_create_buf(false, true)
  vim.api.nvim_buf_set_lines(proposed, 0, -1, false, lines)
  vim.bo[proposed].bufhidden = 'wipe'
  local edit = { range = result.range, newText = result.refinement }
  vim.lsp.util.apply_text_edits({ edit }, proposed, encoding)
  vim.bo[proposed].filetype = vim.bo[source].filetype
  vim.bo[proposed].modifiable = false
  vim.cmd('tab sbuffer ' .. source)
  diff_tab = vim.api.nvim_get_current_tabpage()
  vim.cmd('diffthis')
  vim.cmd('rightbelow vertical sbuffer ' .. proposed)
  vim.cmd('diffthis')
  vim.api.nvim_buf_set_name(proposed, 'critic://refinement/' .. result.id)
  vim.cmd('wincmd p')
end

--- Closes it.
function M.close_diff()
  if diff_tab and vim.api.nvim_tabpage_is_valid(diff_tab) then
    vim.api.nvim_set_current_tabpage(diff_tab)
    vim.cmd('diffoff!')
    if #vim.api.nvim_list_tabpages() > 1 then
      vim.cmd('tabclose')
    else
      vim.cmd('only')
    end
  end
  diff_tab = nil
end

return M
